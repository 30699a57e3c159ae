"""The two pipelines: photo to file, file to picture."""
