"""The elements that travel between the steps, and the reasons for which one may not arrive.

Elements are frozen `msgspec.Struct`s rather than dataclasses: as immutable and slotted, but packed for a shuffle by
msgspec's C code in about a microsecond, where Beam would pickle a dataclass in twenty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""(ymin, xmin, ymax, xmax) in pixels, half-open: ymax and xmax lie just outside."""


class ReasonCode(Enum):
    """Why an image or annotation is not in the records.

    The name is the code; the value explains it to a user, and `advice` says what to do about it.
    """

    advice: str

    def __new__(cls, meaning: str, advice: str) -> ReasonCode:
        member = object.__new__(cls)
        member._value_ = meaning
        member.advice = advice
        return member

    RLE_MALFORMED = (
        "run lengths that do not decode to exactly height × width pixels",
        "export the mask anew, with `pycocotools.mask.encode`; `size` is [height, width], and the runs add up to their product",
    )
    RLE_SIZE_MISMATCH = (
        "run lengths for another size than the image's",
        "look whether height and width are swapped, or the image was scaled after it was annotated",
    )
    DIM_LIMIT = (
        "a height or width that is zero, or more pixels than --max_megapixels",
        "correct `height` and `width`, or `size` of the run lengths; for larger images, raise `--max_megapixels`",
    )
    COORD_INVALID = (
        "a polygon coordinate that is not a finite number within bounds",
        "coordinates are plain numbers, in pixels, from -100000 to 100000: look for text, null, or a division by zero",
    )
    POLY_MALFORMED = (
        "a polygon that is not a list of rings of at least three x, y pairs",
        "write a segmentation as [[x1, y1, x2, y2, x3, y3, …], …]; leave it out for an annotation that has only a box",
    )
    POINT_LIMIT = (
        "a polygon with more points than --max_points, or too long an outline",
        "simplify the polygon, export the mask as run lengths, or raise `--max_points`",
    )
    INSTANCE_LIMIT = (
        "an image with more annotations than --max_instances",
        "look whether all annotations were given one image id; for an image that is so crowded, raise `--max_instances`",
    )
    EMPTY_MASK = (
        "a mask without a pixel inside the image",
        "look whether x and y are swapped, or the coordinates are of another size of the image; drop slivers below a pixel",
    )
    BOX_INVALID = (
        "neither a mask nor a box with an area inside the image",
        "annotate the object anew, or delete the annotation; a box is [x, y, width, height] in pixels",
    )
    DUP_ID = (
        "an annotation id that another annotation has already",
        "number the annotations anew: files that were joined often count from 1 each; the first was written",
    )
    DUP_IMAGE = (
        "an image id that another image has already",
        "number the images anew and change `image_id` of the annotations likewise; one of the images was written",
    )
    FIELD_INVALID = (
        "a required field that is missing or of the wrong type",
        "the message names the field, what was expected and what was found; ids are whole numbers",
    )
    TEXT_INVALID = (
        "text that is not valid Unicode",
        "save the file as UTF-8, and rename what has half a surrogate pair (`\\ud800` … `\\udfff`) in its name",
    )
    CATEGORY_UNKNOWN = (
        "a category id that the category list does not have",
        "add the category to `categories`, or correct `category_id`",
    )
    IMAGE_ORPHAN = (
        "an annotation for an image that the image list does not have",
        "add the image to `images`, or delete the annotation",
    )
    IMAGE_MISSING = (
        "an image file that is not there",
        "look at the path in the message: is `--images` the folder that `file_name` starts from, does the case agree, "
        "was everything uploaded?",
    )
    IMAGE_CORRUPT = (
        "an image file that is empty, cut off or damaged",
        "fetch the file anew; one that begins with `<` is a web page that was saved in its place",
    )
    IMAGE_UNSUPPORTED = (
        "an image in a format that can't be read, or with several frames",
        "convert it to JPEG or PNG, of one frame and 8 bits",
    )
    PIXEL_LIMIT = (
        "an image file with more pixels than --max_megapixels",
        "cut or scale the image and its annotations, or raise `--max_megapixels`",
    )
    DIM_MISMATCH = (
        "an image file of another size than its annotations say",
        "use the image as it was annotated, or scale its annotations; the message has both sizes",
    )
    PATH_FORBIDDEN = (
        "a file name that leads out of the image folder",
        "put the file into the folder of `--images`, or choose a folder above both; names are relative, with `/`",
    )
    RECORD_LIMIT = (
        "a record, or an image file, that is larger than --max_record_mb",
        "use `--mask_encoding png`, cut the image into tiles, or raise `--max_record_mb`",
    )
    FILE_INVALID = (
        "an annotation file of one image, or an image's entry in one, that can't be read",
        "the message says where and what was expected; export the file anew, or open it in the tool that wrote it",
    )
    SHAPE_UNSUPPORTED = (
        "a shape that encloses nothing, or of a kind that is not read: a line, a point, a skeleton",
        "draw the object as a polygon, a box or a mask; the page of the format lists what is read",
    )
    MASK_MISSING = (
        "a mask file that is not there",
        "look at the path in the message: is `--masks` the right folder, was everything uploaded?",
    )
    MASK_INVALID = (
        "a mask file that can't be decoded, or is of another kind or size than expected",
        "the message says what was found; masks are PNGs, saved without being scaled or turned to JPEG on the way",
    )
    DROPPED_CROWD = (
        "a crowd, left out because of --drop_crowds",
        "nothing; without the option it is written",
    )
    DROPPED_WITHOUT_MASK = (
        "an annotation without a mask, left out because of --drop_annotations_without_mask",
        "nothing; without the option it is written, with mask weight 0",
    )
    DROPPED_EMPTY_IMAGE = (
        "an image without annotations, left out because of --drop_images_without_annotations",
        "nothing; without the option it is written, with empty lists",
    )

    DROPPED_CATEGORY = (
        "an annotation of a class that --categories leaves out",
        "nothing; with the class kept in the file, it is written",
    )
    DROPPED_SMALL = (
        "an object smaller than --min_area, or of which nothing is left at --max_side",
        "nothing; with a smaller `--min_area`, or a larger `--max_side`, it is written",
    )
    DROPPED_SLIVER = (
        "what of an object lies on a tile, where it is less than --tile_min_share of the largest part of it on any tile",
        "nothing; the largest part of the object is on another tile",
    )
    DROPPED_VOID = (
        "a region that the format marks as void, which belongs to no object",
        "nothing; such regions are for evaluation to leave out",
    )
    DROPPED_STUFF = (
        "a region of a class that has no instances: stuff, as sky or road",
        "nothing; only things are instances",
    )

    @property
    def by_option(self) -> bool:
        """Whether the user, or the format, wants this, so that it is no fault of the data."""
        return self.name.startswith("DROPPED_")


class Fix(Enum):
    """What was put right on the way, or is odd and was kept; counted in the statistics. The value explains it to a user."""

    POLYGON_CLIPPED = "polygons that reach over the image's edge"
    POLYGON_CROSSES_ITSELF = "polygons with a ring of which two sides cross: what is enclosed twice is no part of the mask"
    BOX_CLIPPED = "boxes that reach over the image's edge"
    BOX_FROM_MASK = "boxes taken from the mask, the annotation having no usable one"
    IMAGE_CONVERTED = "images converted to a format that the trainers decode"
    IMAGE_TURNED = "images turned upright as their EXIF orientation says"
    IMAGE_SCALED = "images scaled down to --max_side"
    IMAGE_TILED = "images that are a tile of another"
    IMAGE_NOT_TURNED = "images with another EXIF orientation, left as they are stored, because that is what their annotations fit"


class InputError(Exception):
    """The input as a whole can't be used. The message is for the user and names the file; the job ends with it."""


class Problem(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Bad data, as a value: what a function gives back instead of its result."""

    code: str
    message: str


def problem(code: ReasonCode, message: str) -> Problem:
    """The `Problem` with this code."""
    return Problem(code.name, message)


AREA_MAX = float(np.finfo(np.float32).max)
"""Of the records, whose areas are float32."""
LARGEST_PACKED = 2e7
"""Coordinates that `Polygons` can hold are below that."""


_KINDS = {2: "<i2", 4: "<i4", 8: "<f8", 0: "<f8"}


class Polygons(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="polygons"):
    """Closed rings of x, y pairs in pixels, the origin at the outer corner of the upper left pixel.

    Most tools round coordinates to hundredths. Where all are such, and of an even number, they are kept as steps from the
    point before, in hundredths, int16 or int32: a third fewer bytes to shuffle than the hundredths themselves. Else they are
    float64. The number of bytes tells which.
    """

    coordinates: bytes
    ring_lengths: tuple[int, ...]
    holes: int = 0
    """So many of the rings, the last ones, are cut out of what the others enclose."""

    @classmethod
    def pack(cls, rings: Sequence[Sequence[float]], holes: int = 0) -> Polygons:
        """Packs rings `[x0, y0, x1, y1, …]` of finite numbers below `LARGEST_PACKED`; nothing else is checked here."""
        values = np.fromiter((value for ring in rings for value in ring), np.float64)
        lengths = tuple(len(ring) for ring in rings)
        hundredths = np.rint(values * 100)
        if values.size and values.size % 2 == 0 and (hundredths / 100 == values).all():
            steps = hundredths.copy()
            steps[2:] -= hundredths[:-2]
            longest = np.abs(steps).max()
            if longest < 2**31:
                return cls(steps.astype("<i2" if longest < 2**15 else "<i4").tobytes(), lengths, holes)
        return cls(values.astype("<f8").tobytes(), lengths, holes)

    @property
    def numbers(self) -> int:
        """How many numbers, two a point, all rings have together."""
        return sum(self.ring_lengths)

    @property
    def kind(self) -> str:
        """What numpy calls the type of the packed coordinates."""
        return _KINDS[len(self.coordinates) // max(1, self.numbers)]

    def values(self) -> npt.NDArray[np.float64]:
        """All rings' `x0, y0, x1, y1, …`, one after the other, equal to what was packed, and but for -0.0 bit for bit."""
        return values_of([self])


def values_of(shapes: Sequence[Polygons]) -> npt.NDArray[np.float64]:
    """What `values` gives for each, which all have points, one after the other: of 112 in a fourth of the time."""
    if any(one.kind == "<f8" for one in shapes):
        floats = (np.frombuffer(one.coordinates, "<f8") if one.kind == "<f8" else one.values() for one in shapes)
        return np.concatenate(list(floats))
    steps = np.concatenate([np.frombuffer(one.coordinates, one.kind) for one in shapes], dtype=np.float64).reshape(-1, 2)
    firsts = np.cumsum([0, *(one.numbers // 2 for one in shapes[:-1])])
    steps[firsts[1:]] -= np.add.reduceat(steps, firsts)[:-1]  # each begins anew
    hundredths = np.add.accumulate(steps)
    hundredths /= 100
    return hundredths.ravel()


def split_rings(shapes: Sequence[Polygons], values: npt.NDArray[np.float64]) -> list[list[npt.NDArray[np.float64]]]:
    """What `values_of` has given, or something made of each of it: for each shape, ring by ring."""
    stop = 0
    rings = []
    for shape in shapes:
        rings.append([values[stop : (stop := stop + length)] for length in shape.ring_lengths])
    return rings


class RunLengths(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="runs"):
    """A mask as COCO's compressed run lengths: column by column, zeros first; see `run_lengths`."""

    height: int
    width: int
    counts: bytes


Shape = Polygons | RunLengths | None


class Attributes(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What some formats say of an object besides, under the names that the Object Detection API has for it."""

    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    group_of: bool = False
    depiction: bool = False
    view: str = ""


FLAGS = tuple(name for name in Attributes.__struct_fields__ if name != "view")
"""Those that are true or false."""


class Instance(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One annotated object of an image.

    `box` is None where the annotation has none that can be used; after `Rasterize` it is there, inside the image.
    `area` is the annotation's own, in pixels², or None. `shape` is None for a box without a mask; after `Rasterize`
    it is no longer a polygon. `fixes` holds names of `Fix`. An instance of a higher `layer` covers what it shares with those
    of lower ones, so that they lose it; within a layer, instances may overlap.
    """

    annotation_id: int
    category_id: int
    box: Box | None
    area: float | None
    is_crowd: bool
    shape: Shape
    fixes: tuple[str, ...] = ()
    layer: int = 0
    attributes: Attributes | None = None


class View(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The part of an image file that an image is.

    The picture of `file_name`, of file_height × file_width pixels, is scaled to scaled_height × scaled_width; of that the image
    begins at (top, left). Tiles of one image have its id as `parent_id`.
    """

    file_name: str
    file_height: int
    file_width: int
    scaled_height: int
    scaled_width: int
    top: int = 0
    left: int = 0
    parent_id: int | None = None


class ImageExtras(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What few images have.

    `embedded` is the path of an annotation file that has the image in it, for where there is no image file. The category ids
    are LVIS's: of what was looked for and is not there, and of what is there and not annotated to the last.
    """

    embedded: str = ""
    neg_category_ids: tuple[int, ...] | None = None
    not_exhaustive_category_ids: tuple[int, ...] | None = None
    view: View | None = None


class AnnotatedImage(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An image and its instances, in the order of their annotation ids; height and width as the annotations say."""

    image_id: int
    file_name: str
    height: int
    width: int
    instances: tuple[Instance, ...]
    extras: ImageExtras | None = None

    @property
    def view(self) -> View | None:
        """What part of its file it is, if not all of it."""
        return self.extras.view if self.extras else None

    @property
    def source_id(self) -> int:
        """The id of the image that it is, or is a tile of."""
        parent_id = self.view.parent_id if self.view else None
        return self.image_id if parent_id is None else parent_id


class Category(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A class of objects, with the id that the annotations use."""

    category_id: int
    name: str


def names_by_id(categories: Iterable[Category]) -> dict[int, str]:
    """Names by ids, ascending. Raises `InputError` for an id that has two."""
    names: dict[int, str] = {}
    for category in sorted(categories):
        if names.setdefault(category.category_id, category.name) != category.name:
            both = f"{names[category.category_id]!r} and {category.name!r}"
            raise InputError(f"the category id {category.category_id} stands for {both}: give each a number of its own")
    return names


class Reject(msgspec.Struct, frozen=True, gc=False):
    """An image or annotation that is not in the records, and why. Each stands for exactly one.

    `file_name` is the image's, where it is known.
    """

    kind: Literal["image", "annotation"]
    image_id: int | None
    annotation_id: int | None
    reason: str
    message: str
    file_name: str | None = None


class Census(msgspec.Struct, frozen=True, array_like=True):
    """How much went in: counted where the input is parsed, so that the ledger has something to balance against.

    `pixels` adds up the sizes of the images as the annotations give them.
    """

    images: int = 0
    annotations: int = 0
    pixels: int = 0

    def __add__(self, other: Census) -> Census:
        return Census(
            self.images + other.images,
            self.annotations + other.annotations,
            self.pixels + other.pixels,
        )


ITS_IMAGE_WAS_REJECTED = "its image was rejected"


def reject_image(image: AnnotatedImage, why: Problem) -> list[Reject]:
    """The rejects for an image and, with the same reason, for each of its instances."""
    rejects = [Reject("image", image.image_id, None, why.code, why.message, image.file_name)]
    for instance in image.instances:
        rejects.append(reject_instance(image, instance.annotation_id, problem_of_image(why)))
    return rejects


def problem_of_image(why: Problem) -> Problem:
    """What an image's problem is to its annotations."""
    return Problem(why.code, ITS_IMAGE_WAS_REJECTED)


def reject_instance(image: AnnotatedImage, annotation_id: int, why: Problem) -> Reject:
    """The reject for one of an image's annotations."""
    return Reject("annotation", image.image_id, annotation_id, why.code, why.message, image.file_name)


_encoder = msgspec.msgpack.Encoder()


def pack(element: object) -> bytes:
    """An element as msgpack: the same bytes for the same element, on every worker."""
    return _encoder.encode(element)
