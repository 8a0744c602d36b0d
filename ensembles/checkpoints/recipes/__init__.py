"""Merges described by YAML files in the format of mergekit."""
