"""The pairs of a run in the forms that other tools read: rows.py reads them, forms.py and card.py write."""
