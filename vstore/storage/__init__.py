"""Where the bytes are: the ObjectStore protocol, memory, folder and S3 stores, and one-job wrappers."""
