"""The torch side: losses, models, data and the one training loop. Knows neither Ray nor MLflow."""
