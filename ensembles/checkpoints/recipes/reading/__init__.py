"""Reading of recipes from YAML: entries with their lines, typed fields, documents."""
