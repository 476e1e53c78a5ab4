"""The names that threestudio mentions when it is imported."""


class RasterizeGLContext:
    pass


class RasterizeCudaContext:
    pass
