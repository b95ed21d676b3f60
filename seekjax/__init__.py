"""DeepSeek in JAX, end to end. Start reading at train.py; the model is in seekjax/model, where
arrays live is in sharding/."""
