"""Train cohorts with torch: losses, models, data and the training loop, without Ray and MLflow."""

import gc

# Importing torch and timm creates 400,000 objects that stay. With Python's default of a collection after every 700 new
# objects, a fifth of the import's time would go into garbage collection.
_MIN_GC_THRESHOLD = 10_000
_threshold, *_older = gc.get_threshold()
if 0 < _threshold < _MIN_GC_THRESHOLD:
    gc.set_threshold(_MIN_GC_THRESHOLD, *_older)
