"""The programs, one a file, each readable top to bottom. Nothing here is imported by the rooms below."""
