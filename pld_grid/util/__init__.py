"""Helpers that know nothing of experiments: errors, text, strict YAML, atomic files, processes, redaction."""
