"""Reports: records, a table layout and the paper become tables, figures and pages. Needs no torch, Ray or MLflow."""
