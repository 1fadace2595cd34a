"""One file a tracker, by the name that train.report_to has for it: `start(run)` returns a Tracker."""
