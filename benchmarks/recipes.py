"""What `models.py` trains: of each model the data, the settings and what its metadata say."""

from dataclasses import dataclass, replace
from typing import Any

from rnca.cases import Starts
from rnca.tidy import NOTHING, Tidying
from rnca.training import Settings

SHARE_ALIKE = "CC BY-SA 4.0"
NC = "CC BY-NC-SA 4.0 (non-commercial)"

HIPPOCAMPUS = (
    "Medical Segmentation Decathlon, hippocampus, training subjects; CC BY-SA 4.0; "
    "Antonelli et al., Nature Communications 13:4128, 2022"
)
ACDC = (
    "ACDC, training patients; CC BY-NC-SA 4.0; Bernard et al., IEEE Transactions on Medical Imaging 37:2514-2525, 2018"
)
CURVAS = "CURVAS, training patients; CC BY-NC; CURVAS challenge, MICCAI 2024"
CHAOS = "CHAOS T2-SPIR MR, training subjects; CC BY-NC-SA 4.0; Kavur et al., Medical Image Analysis 69:101950, 2021"
FIVES = "FIVES (AMD), training images; CC BY 4.0; Jin et al., Scientific Data 9:475, 2022"
CHASE = (
    "CHASE_DB1, training children; CC BY 4.0; "
    "Fraz et al., IEEE Transactions on Biomedical Engineering 59:2538-2548, 2012"
)
TREES = "MedRad trees, training subjects (masks, images made); CC BY-NC-SA 4.0; see the data set"
AUTHORS_RINGS = (
    "rNCA authors' synthetic rings (120 of 512 images of 64×64); MIT; Silbernagel, Alonso et al., arXiv 2512.13397"
)
PHANTOMS = "phantoms of this package (rnca.phantoms); Apache-2.0; "


@dataclass(frozen=True)
class Recipe:
    """One model."""

    description: str
    licence: str
    trained_on: tuple[str, ...]
    sources: tuple[str, ...]  # of models.SOURCES
    phantoms: tuple[str, ...]  # KIND:COUNT:SIZE
    settings: Settings
    sigma: float  # of the local contrast, voxels
    scales: tuple[float, ...] = (0.0, 2.0)
    colour: str = "luminance"  # what of a colour image the network sees
    tidying: Tidying = NOTHING  # of the metadata
    object_size: int = 0  # of the metadata: larger objects are repaired on a coarser grid
    gain: float = 1.0  # at export updates are made this much longer: they rest where they did, and are there sooner
    steps: int = 64  # of the metadata: the default of a repair
    start: str | None = None  # a shipped model to go on from; a 2-D one is inflated for volumes
    dims: int = 2

    @property
    def intensity(self) -> dict[str, Any]:
        """The metadata's entry."""
        spec: dict[str, Any] = {"kind": "local", "sigma": self.sigma}
        return spec if self.scales == (0.0,) else spec | {"scales": list(self.scales)}


GAPS = ("gaps", "gaps", "gaps", "thin", "open", "mixed")
CHUNKS = ("chunks", "chunks", "chunks", "holes", "thin", "islands", "mixed")
LATER = Settings(fresh=1, focus=0.3, topology=1.0, noise=0.06)  # a stage that goes on from a model
SPACE = replace(
    LATER,
    iterations=500,
    batch=6,
    pool=96,
    patch=24,
    first=(14, 28),
    learning_rate=4e-4,
    hold=0.5,
    zoom=(0.75, 1.35),
    starts=Starts(GAPS, (0.2, 0.9), clean=0.3),
)
RECIPES = {
    "vessel-2d": Recipe(
        "Bridges gaps in retinal vessels and takes loose pieces away, from a network's probabilities (soft) or from a"
        " binary mask.",
        "CC BY 4.0",
        (FIVES, CHASE, PHANTOMS),
        ("fundus",),
        ("vessels:40:96",),
        replace(
            LATER,
            iterations=6000,
            pool=192,
            patch=72,
            first=(20, 36),
            learning_rate=5e-4,
            hold=0.3,
            # Not below 1: an interpolated label loses its thinnest vessels, and the gaps would be taught.
            zoom=(1.0, 1.25),
            starts=Starts(("gaps", "gaps", "thin", "open", "holes", "mixed"), (0.1, 0.9), clean=0.25, given=0.8),
        ),
        20.0,
        colour="green",
        start="vessel-2d",  # it was 1.0.0 then
        tidying=Tidying(64, 0, tolerance=0.035, gap_size=1, bite_size=1),
    ),
    "organ-2d": Recipe(
        "Fills chunks and holes of compact organs in CT and MR slices (liver, kidney, spleen) and takes loose islands"
        " away; has seen generated organs and the hippocampus only.",
        SHARE_ALIKE,
        (HIPPOCAMPUS, PHANTOMS),
        ("hippocampus-slices",),
        ("blobs:400:128",),
        Settings(
            iterations=2423,
            batch=32,
            pool=1024,
            fresh=4,
            patch=96,
            first=(20, 40),
            focus=0.7,
            topology=2.0,
            noise=0.1,
            zoom=(0.75, 1.35),
            starts=Starts(CHUNKS, (0.1, 1.0), clean=0.3, most=2),
        ),
        32.0,
        tidying=Tidying(32, 16, tolerance=0.04, bulge_ratio=1.0, bay_width=32),
        object_size=108,
    ),
    "organ-2d-nc": Recipe(
        "Fills chunks and holes of compact organs in CT and MR slices (liver, kidney, spleen), also where they touch"
        " something as bright as themselves.",
        NC,
        (CURVAS, CHAOS, PHANTOMS),
        ("organ-slices",),
        ("blobs:40:128",),
        replace(
            LATER,
            iterations=1800,
            pool=128,
            fresh=2,
            patch=80,
            first=(12, 30),
            learning_rate=3e-4,
            hold=3.0,
            topology=3.0,
            zoom=(0.8, 1.25),
            neighbours=0.5,
            # No islands: to take them away and to keep small organs are at odds.
            starts=Starts(("chunks", "chunks", "chunks", "holes", "thin", "open"), (0.1, 1.0), clean=0.4, most=2),
        ),
        32.0,
        start="organ-2d-nc",  # it was 1.0.0 then
        tidying=Tidying(32, 2, tolerance=0.03),
        object_size=108,
        steps=96,
    ),
    "myocardium-2d": Recipe(
        "Closes the ring of the left ventricle's myocardium in short-axis cine MR slices: gaps, missing wedges, thinned"
        " and thickened walls, loose islands.",
        NC,
        (ACDC,),
        ("heart",),
        (),
        replace(
            LATER,
            iterations=2000,
            pool=128,
            patch=72,
            # More new states and an earlier loss than elsewhere: growth is learned faster.
            fresh=3,
            first=(12, 30),
            learning_rate=3e-4,
            hold=8.0,
            topology=3.0,
            zoom=(0.8, 1.25),
            starts=Starts(
                ("wedges", "wedges", "wedges", "thin", "thick", "open", "islands"), (0.4, 1.0), clean=0.45, most=3
            ),
        ),
        16.0,
        (0.0,),
        start="myocardium-2d",  # it was 1.2.0 then
        tidying=Tidying(2, 2, [1, 1], tolerance=0.03),
        gain=1.35,
    ),
    "general-2d": Recipe(
        "Closes gaps, fills chunks and holes and takes loose islands away, in rings, compact organs and vessels alike:"
        " the model for masks that no other one was made for.",
        "CC BY 4.0",
        (AUTHORS_RINGS, PHANTOMS, FIVES, CHASE),
        ("fundus",) * 4,  # there are few photographs
        ("rings:400:88", "thin-rings:300:80", "blobs:400:96", "vessels:300:88"),
        replace(
            LATER,
            iterations=6656,
            pool=256,
            fresh=2,
            patch=80,
            first=(14, 34),
            learning_rate=6e-4,
            hold=1.0,
            topology=2.0,
            focus=0.5,
            starts=Starts(("mixed", "mixed", "gaps", "chunks"), (0.1, 0.9), clean=0.35),
        ),
        32.0,
        colour="green",
        start="general-2d",  # it was 1.0.3 then, with the weights of 1.0.0
        tidying=Tidying(32, 2, tolerance=0.05, bulge_ratio=1.0, bay_width=32),
        object_size=108,
    ),
    "organ-3d": Recipe(
        "Fills chunks and holes of compact organs in volumes and takes loose islands away.",
        SHARE_ALIKE,
        (HIPPOCAMPUS, PHANTOMS),
        ("hippocampus",),
        ("blobs:60:48",),
        replace(
            SPACE,
            iterations=456,
            batch=4,
            patch=28,
            learning_rate=6e-4,
            focus=0.5,
            hold=0.0,
            starts=Starts(CHUNKS, (0.1, 1.0), clean=0.3, most=2),
        ),
        16.0,
        start="organ-2d",  # that gave 1.0.0; 1.1.0 is a mean (models.py export --mean), as its card says
        dims=3,
        tidying=Tidying(32, 8, tolerance=0.03, bulge_ratio=0.8, look_size=30),
        object_size=160,
    ),
    "organ-3d-nc": Recipe(
        "Fills chunks and holes of abdominal organs and of the hippocampus in MR volumes, also where they touch"
        " something as bright as themselves.",
        NC,
        (CHAOS, HIPPOCAMPUS, PHANTOMS),
        ("abdomen", "hippocampus"),
        ("blobs:20:48",),
        replace(
            SPACE,
            iterations=1500,
            patch=26,
            fresh=2,
            first=(12, 28),
            hold=1.0,
            topology=2.0,
            neighbours=0.5,
            starts=Starts(("chunks", "chunks", "chunks", "holes", "thin", "open"), (0.1, 1.0), clean=0.4, most=2),
        ),
        16.0,
        start="organ-3d",  # it was 1.0.1 then; 1.1.0 is a mean, as its card says
        tidying=Tidying(32, 8, tolerance=0.03, bulge_ratio=0.8, look_size=30),
        object_size=160,
        dims=3,
    ),
    "vessel-3d": Recipe(
        "Bridges gaps in trees of vessels and airways in volumes and takes loose pieces away; has seen generated"
        " trees, and retinal vessels.",
        "CC BY 4.0",
        (FIVES, CHASE, PHANTOMS),
        (),
        ("vessels:120:56:rendered",),
        SPACE,
        16.0,
        start="vessel-2d",
        tidying=Tidying(64, 8, keep_holes=True, tolerance=0.002, gap_size=2),
        dims=3,
    ),
    "general-3d": Recipe(
        "Closes gaps, fills chunks and holes and takes loose islands away, in volumes of organs, walls and trees alike:"
        " the model for volumes that no other one was made for.",
        SHARE_ALIKE,
        (HIPPOCAMPUS, PHANTOMS),
        ("hippocampus",),
        ("blobs:60:48", "rings:60:48", "vessels:80:56:rendered"),
        replace(SPACE, starts=Starts(("mixed", "gaps", "chunks"), (0.1, 0.9), clean=0.3)),
        16.0,
        start="organ-3d",
        dims=3,
        tidying=Tidying(32, 8, tolerance=0.03, bulge_ratio=0.8, look_size=30, gap_size=2),
        object_size=160,
    ),
    "vessel-3d-nc": Recipe(
        "Bridges gaps in trees of vessels and airways in volumes and takes loose pieces away; has seen real trees.",
        NC,
        (TREES, FIVES, CHASE, PHANTOMS),
        ("trees",),
        ("vessels:40:56:rendered",),
        replace(SPACE, iterations=1000, fresh=2, first=(12, 26), hold=0.7, topology=2.0, zoom=(1.0, 1.35)),
        16.0,
        start="vessel-3d-nc",  # it was 1.0.0 then
        dims=3,
        tidying=Tidying(32, 8, keep_holes=True, tolerance=0.04, gap_size=2, look_size=30),
    ),
}
