"""What a job reads, shuffles, writes and costs on Dataflow: the table of docs/scaling.md, or that of a data set of one's own.

    python benchmarks/price.py --images 5e6 --instances 12 --image_kb 250 --vcpu_hour 0.06

What was measured is by `make bench-scaling`; prices are list prices for us-central1 in US dollars as they were known in 2025, and
are to be looked up anew: https://cloud.google.com/dataflow/pricing, https://cloud.google.com/storage/pricing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from transforms.records import Census
from transforms.sharding import Splits, plan_shards


@dataclass(frozen=True)
class Measured:
    """Bytes, requests and seconds, as `make bench-scaling` prints them."""

    json_image: float = 75  # bytes of an entry of `images`
    json_instance: float = 573  # of one of `annotations`, an outline of 12 to 45 points
    record_image: float = 600  # of a record, beside the image file
    record_instance: float = 732  # of it, PNG mask included
    shuffled: tuple[tuple[float, float], ...] = ((1e5, 324), (1e6, 347), (1e7, 383), (1e9, 480))  # bytes an instance, by images
    class_a_shard: float = 4
    class_b_shard: float = 4
    cpu_ms: float = 5.5  # an image, from and to a bucket
    cut_mb_s: float = 120  # one worker, one annotation file; an assumption: 200 to 380 were measured from a disk
    publish_ms: float = 0.16  # a shard, in the last step


@dataclass(frozen=True)
class Prices:
    """US dollars."""

    vcpu_hour: float = 0.056
    memory_gb_hour: float = 0.003557
    disk_gb_hour: float = 0.000054
    shuffle_gb: float = 0.011
    class_a: float = 0.005  # a thousand
    class_b: float = 0.0004  # a thousand
    storage_gb_month: float = 0.020


MEMORY_GB, DISK_GB = 3.75, 25.0
"""Of a worker of one vCPU."""
START_MINUTES = 4.0
"""Until workers are there: an assumption, as is the next."""
BUSY = 0.8
"""Of the time that workers are paid for, how much they work."""


@dataclass(frozen=True)
class Job:
    """A data set, and with what it is made."""

    images: float
    instances: float = 7.0
    image_kb: float = 163.0  # the average of COCO's files
    megapixels: float = 0.307
    workers: int = 100
    files: int = 1  # of annotations

    def row(self, measured: Measured = Measured(), prices: Prices = Prices()) -> dict[str, str]:
        """Name → value, with its unit."""
        objects = self.images * self.instances
        annotations = self.images * measured.json_image + objects * measured.json_instance
        written = self.images * (self.image_kb * 1e3 + measured.record_image) + objects * measured.record_instance
        census = Census(int(self.images), int(objects), int(self.images * self.megapixels * 1e6))
        shards = plan_shards(census, Splits(), None, dense_masks=False).shards[0][1]
        sizes, each = zip(*measured.shuffled, strict=True)
        shuffled = objects * float(np.interp(math.log(self.images), np.log(sizes), each))
        class_a, class_b = shards * measured.class_a_shard, self.images + shards * measured.class_b_shard + annotations / 1e6
        cpu_hours = self.images * measured.cpu_ms / 1e3 / 3600
        cutting = annotations / self.files / 1e6 / measured.cut_mb_s / 3600
        hours = START_MINUTES / 60 + cutting + cpu_hours / self.workers / BUSY + shards * measured.publish_ms / 1e3 / 3600
        paid = cpu_hours / BUSY + START_MINUTES / 60 * self.workers
        dollars = {
            "workers": paid * (prices.vcpu_hour + MEMORY_GB * prices.memory_gb_hour + DISK_GB * prices.disk_gb_hour),
            "shuffle": 2 * shuffled / 1e9 * prices.shuffle_gb,
            "requests": class_a / 1e3 * prices.class_a + class_b / 1e3 * prices.class_b,
        }
        return {
            "annotation file": size(annotations),
            "read": size(2 * annotations + self.images * self.image_kb * 1e3),
            "shuffled": size(shuffled),
            "shuffled, of what is written": f"{shuffled / written:.2%}",
            "written": size(written),
            "shards, `--num_shards auto`": f"{shards:,} of {size(written / shards)}",
            "requests of class A; class B": f"{number(class_a)}; {number(class_b)}",
            "vCPU hours at work": f"{cpu_hours:,.1f}",
            f"wall time with {self.workers} vCPUs": time(hours),
            f"of which cutting {self.files} annotation file{'s' * (self.files > 1)}": time(cutting),
            **{f"{name}, US$": f"{value:,.2f}" for name, value in dollars.items()},
            "**the job, US$**": f"**{sum(dollars.values()):,.2f}**",
            "the data set, US$ a month": f"{written / 1e9 * prices.storage_gb_month:,.2f}",
        }


def size(value: float) -> str:
    """Bytes, for people."""
    power = min(4, int(math.log10(max(1.0, value)) / 3))
    return f"{value / 1000**power:,.3g} {('B', 'KB', 'MB', 'GB', 'TB')[power]}"


def number(value: float) -> str:
    """A count, for people."""
    return f"{value:.2g}" if value >= 1e6 else f"{value:,.0f}"


def time(hours: float) -> str:
    """A duration, for people."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.0f} min" if hours > 1 / 60 else f"{hours * 3600:,.0f} s"


def table(jobs: Sequence[Job], measured: Measured = Measured(), prices: Prices = Prices()) -> str:
    """Jobs side by side."""
    rows = [job.row(measured, prices) for job in jobs]
    lines = ["| | " + " | ".join(f"{job.images:,.0f} images" for job in jobs) + " |", "|---" * (len(jobs) + 1) + "|"]
    for name in rows[0]:
        lines.append(f"| {name} | " + " | ".join(row[name] for row in rows) + " |")
    return "\n".join(lines) + "\n"


IN_THE_DOCS = (Job(1e5), Job(1e7), Job(1e9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, nargs="*", default=[job.images for job in IN_THE_DOCS])
    for field in fields(Job)[1:]:
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    for field in fields(Prices):
        parser.add_argument(f"--{field.name}", type=float, default=field.default)
    given = vars(parser.parse_args())
    prices = Prices(**{field.name: given[field.name] for field in fields(Prices)})
    more = {field.name: given[field.name] for field in fields(Job)[1:]}
    print(table([Job(images, **more) for images in given["images"]], prices=prices))


if __name__ == "__main__":
    main()
