"""The name that Zero123's demo code mentions."""

clear_output = None
