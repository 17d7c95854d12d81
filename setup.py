"""Builds the compiled parts: the data plane (node/core) and the store's batch writer (storage)."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

FLAGS = ["-O2", "-g", "-fno-strict-aliasing", "-Wno-unused-function", "-Wno-unreachable-code", "-Wno-sign-compare"]

extensions = [
    Extension(
        ".".join(path.with_suffix("").parts),
        [str(path)],
        extra_compile_args=FLAGS,
        define_macros=[("_GNU_SOURCE", "1")],
    )
    for folder in ("node/core", "storage")
    for path in sorted(Path(folder).glob("*.pyx"))
]

setup(
    options={"build": {"build_lib": "build/lib"}},  # a name that the Makefile knows
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        },
    ),
)
