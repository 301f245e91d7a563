"""Captions by a vision-language model: prompts, retries, a journal that survives a stop."""
