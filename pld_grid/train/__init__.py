"""The torch side: losses, models, data and the one training loop. Knows neither Ray nor MLflow."""

import gc

# Importing torch and timm makes 400,000 objects that stay. Python's collector, whose default is to look after every 700
# new ones, takes a fifth of that import's time to find so.
_NEW_OBJECTS = 10_000
_now, *_older = gc.get_threshold()
if 0 < _now < _NEW_OBJECTS:
    gc.set_threshold(_NEW_OBJECTS, *_older)
