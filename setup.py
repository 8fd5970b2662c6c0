"""Builds the one part of Cordon that is compiled; all else about the package stands in pyproject.toml."""

from setuptools import Extension, setup

STABLE_ABI = "cp311"

setup(
    ext_modules=[
        Extension(
            "app.matching._hamming",
            ["app/matching/_hamming.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O3", "-std=c11", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,  # without a compiler, app/matching/fallback.py serves
        )
    ],
    options={"bdist_wheel": {"py_limited_api": STABLE_ABI}},
)
