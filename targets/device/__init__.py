"""What runs on the device: Python 3.9 and up, numpy and the runtime itself, nothing else of ours."""
