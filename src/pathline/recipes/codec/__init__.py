"""Commands for codecs: train one, check any."""
