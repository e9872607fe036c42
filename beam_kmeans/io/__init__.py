"""Files in and out: sources by format, the staged dataset, prediction writers."""
