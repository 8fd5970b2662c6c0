"""Builds the parts of Cordon that are compiled; all else about the package stands in pyproject.toml."""

from setuptools import Extension, setup

STABLE_ABI = "cp311"

# Without a compiler, the fallback.py beside each serves.
COMPILED = {
    "app.hashing._pixels": "app/hashing/_pixels.c",
    "app.matching._hamming": "app/matching/_hamming.c",
}

setup(
    ext_modules=[
        Extension(
            name,
            [source],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O3", "-std=c11", "-ffp-contract=off", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,
        )
        for name, source in COMPILED.items()
    ],
    options={"bdist_wheel": {"py_limited_api": STABLE_ABI}},
)
