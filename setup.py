"""Distribution metadata. Everything of substance is in `beam_pipeline` and `transforms`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "beam_pipeline" / "__init__.py").read_text(encoding="utf-8"))
if VERSION is None:
    raise RuntimeError("beam_pipeline/__init__.py has no __version__")

TENSORFLOW = "tensorflow>=2.18"  # only `verify` and the tests import it; workers do without its 600 MB
AWS = ["boto3>=1.36"]  # the first that checks what it sends and gets
AZURE = ["azure-identity>=1.12", "azure-storage-blob>=12.20"]

setup(
    name="maskbeam",
    version=VERSION[1],
    description="Instance-segmentation annotations to sharded TFRecords that Mask R-CNN trains on, as an Apache Beam pipeline",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["beam_pipeline*", "transforms*"]),
    package_data={"beam_pipeline": ["py.typed", "resources/*"], "transforms": ["py.typed"]},
    install_requires=[
        "apache-beam[gcp]>=2.70",
        "ddsketch>=3.0",
        "google-cloud-storage>=3.3",
        "google-crc32c>=1.5",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "msgspec>=0.19",
        "numpy>=1.26",
        "pillow>=11.0",
        "pycocotools>=2.0.8",
        "pysimdjson>=7.0",
        "pyyaml>=6.0",
        "simplejpeg>=1.8",
        "tensorflow-metadata>=1.14",
        "zlib-ng>=0.5",
        "zstandard>=0.20",
    ],
    extras_require={
        "verify": [TENSORFLOW],
        "aws": AWS,
        "azure": AZURE,
        "dev": [
            TENSORFLOW,
            *AWS,
            *AZURE,
            "build>=1.2",
            "dockerfile-parse>=2.0",
            "flask>=3.0",  # with flask-cors, what moto's server needs for S3; its extra [server] brings forty packages
            "flask-cors>=5.0",
            "gcp-storage-emulator>=2026.7",
            "hypothesis>=6.100",
            "jsonschema>=4.20",
            "moto[s3]>=5.1",
            "mypy>=1.15",
            "psutil>=6.0",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            "types-pyyaml>=6.0",
            "uv>=0.9",
        ],
        "fuzz": ["atheris>=2.3; sys_platform == 'linux' and platform_machine == 'x86_64'"],  # there are wheels for no other
    },
    entry_points={"console_scripts": ["maskbeam = beam_pipeline.cli:command"]},
)
