"""Where engine and trainer meet: recipes, the SQL and the templates they name, the demo."""
