"""How far training is: a bar on a terminal, lines elsewhere; the last step is a line on both."""

import time

import pytest

from tests.schemas.test_summaries import on_terminal, without_style  # noqa: F401 (a fixture)
from trainer.progress import StepBar


def values(step: int) -> dict[str, float]:
    return {"loss": 1 / step, "rewards/accuracies": 0.5, "rewards/margins": 0.25}


@pytest.mark.parametrize(("width", "has_speed"), [(60, False), (100, True)])
def test_the_bar_shows_where_training_is(on_terminal, width, has_speed):  # noqa: F811
    stream = on_terminal(width)
    bar = StepBar(4, 10)
    try:
        for step in range(5, 9):
            bar.show(step, values(step), tokens=100)
            time.sleep(0.3)
        drawn = without_style(stream.getvalue())
        assert "step 8 of 10  loss 0.1250  1 s left" in drawn
        assert ("tokens/s" in drawn) == has_speed
        assert "step 8/10" not in drawn, "no line before the last"
        bar.show(10, values(10), tokens=100)
    finally:
        bar.close()
    after = without_style(stream.getvalue())
    assert "step 10/10  loss 0.1000  accuracy 0.50  margin 0.2500  " in after


def test_without_a_terminal_the_first_and_the_last_step_are_lines(capsys):
    bar = StepBar(0, 3)
    for step in range(1, 4):
        bar.show(step, values(step), tokens=100)
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/3", "step 3/3"]
    assert "\x1b" not in "".join(lines)
