"""Reading and writing segments on real MRML classes: geometry, other segments, masks, undo, regions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from RNCARefineLib import nodes, regions
from RNCARefineLib.boxes import Box, on_box, slices, whole
from RNCARefineLib.cases import image_id, label_map, mark, values_of
from RNCARefineLib.editable import editable_area
from RNCARefineLib.errors import RefineError
from RNCARefineLib.segments import labelmap_of, read_segment, write_changes
from RNCARefineLib.undo import SegmentationUndo
from scenes import PLAIN, add_segmentation, add_volume, mask_of, new_scene, put_under, rotation, slicer, vtk

SHAPE = (9, 14, 17)
OBLIQUE = rotation(10, 20, 30) @ np.diag([0.7, 0.8, 2.0, 1.0])
OBLIQUE[:3, 3] = (5, -7, 11)
FLIPPED = np.array([[0, 0.0, 3, 1], [-0.5, 0, 0, 2], [0, -0.9, 0, 3], [0, 0, 0, 1]])
GEOMETRIES = {"plain": PLAIN, "oblique": OBLIQUE, "flipped and permuted": FLIPPED}
Mask = NDArray[np.bool_]


def blocks() -> tuple[Mask, Mask]:
    """Two segments that touch."""
    first, second = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    first[2:6, 3:9, 4:9] = True
    second[2:6, 3:9, 9:13] = True
    return first, second


def repaired(mask: Mask) -> Mask:
    """With a hole, a tail that leaves the mask's own extent, and a piece that runs over the second segment."""
    after = mask.copy()
    after[3, 4:6, 5:7] = False
    after[1:8, 5, 2:12] = True
    return after


@pytest.mark.parametrize("shared", [False, True], ids=["own labelmaps", "shared labelmap"])
@pytest.mark.parametrize("parents", ["none", "same", "only the volume's", "only the segmentation's", "different"])
@pytest.mark.parametrize("matrix", GEOMETRIES.values(), ids=GEOMETRIES)
def test_change_is_written_exactly_and_undone_exactly(matrix: NDArray[np.float64], parents: str, shared: bool) -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16), matrix)
    first, second = blocks()
    node, (a, b) = add_segmentation(scene, volume, [first, second], shared)
    hardly = np.eye(4)  # moves nothing, and is still another node: coordinates must go through both
    if parents == "same":
        put_under(scene, rotation(3, 50, 7), node, volume)
    if parents in ("only the volume's", "different"):
        put_under(scene, hardly, volume)
    if parents in ("only the segmentation's", "different"):
        put_under(scene, hardly, node)
    mask, box = read_segment(node, a, volume)
    assert mask.all() and box == ((2, 6), (3, 9), (4, 9))
    after, undo = repaired(first), SegmentationUndo()
    undo.save(node)
    assert write_changes(node, a, volume, first, after, whole(SHAPE)) == 0
    assert np.array_equal(mask_of(node, a, volume), after)
    assert np.array_equal(mask_of(node, b, volume), second)
    assert undo.undo() and not undo.undo()
    assert np.array_equal(mask_of(node, a, volume), first) and np.array_equal(mask_of(node, b, volume), second)
    assert undo.redo()
    assert np.array_equal(mask_of(node, a, volume), after) and np.array_equal(mask_of(node, b, volume), second)


@given(
    st.booleans(),
    st.tuples(*[st.integers(-3, n - 1) for n in SHAPE]),
    st.tuples(*[st.integers(1, 8)] * 3),
    st.sampled_from([0.0, 0.02, 0.5]),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_written_is_what_slicers_own_merge_writes(
    shared: bool, corner: tuple[int, ...], extent: tuple[int, ...], crowd: float, seed: int
) -> None:
    """In the labelmap's extent and out of it, over other segments or not; and all of it can be undone and redone."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, SHAPE, p=[0.7 - crowd / 2, 0.3, crowd / 2])
    labels[: rng.integers(0, 5), :, :] = 0  # room at the border
    masks = [labels == 1, labels == 2]
    box = tuple((start, start + n) for start, n in zip(corner, extent, strict=True))
    before = on_box(masks[0], whole(SHAPE), box)
    after = before ^ (rng.random(extent) < 0.3)
    after[0, 0, 0] ^= np.array_equal(after, before)  # there is something to write
    found = []
    for write in (write_changes, merged):
        scene = new_scene()
        volume = add_volume(scene, np.zeros(SHAPE, np.int16), OBLIQUE)
        node, ids = add_segmentation(scene, volume, masks, shared)
        around = tuple((min(start, 0), max(stop, n)) for (start, stop), n in zip(box, SHAPE, strict=True))
        seen: list[int] = []
        changed = slicer.vtkSegmentation.SourceRepresentationModified
        node.GetSegmentation().AddObserver(changed, lambda *_, seen=seen: seen.append(1))
        undo = SegmentationUndo()
        undo.save(node)
        write(node, ids[0], volume, before, after, box)
        found.append([on_box(*grid_mask(node, s, volume), around) for s in ids])
        assert seen or write is merged  # Slicer's own is silent at times
        assert undo.undo()
        assert all(np.array_equal(mask_of(node, s, volume), m) for s, m in zip(ids, masks, strict=True))
        assert undo.redo()
        for segment, mask in zip(ids, found[-1], strict=True):
            assert np.array_equal(on_box(*grid_mask(node, segment, volume), around), mask)
        assert undo.undo()
        undo.save(node)
        write(node, ids[0], volume, before, after, box)  # over what came back, which history must not share
        assert undo.undo()
        assert all(np.array_equal(mask_of(node, s, volume), m) for s, m in zip(ids, masks, strict=True))
    assert all(np.array_equal(mine, slicers) for mine, slicers in zip(*found, strict=True))
    expected = on_box(masks[0], whole(SHAPE), around)
    expected[slices(box, around)] = after
    assert np.array_equal(found[0][0], expected)
    assert np.array_equal(found[0][1], on_box(masks[1], whole(SHAPE), around))


def merged(node: Any, segment: str, volume: Any, before: Mask, after: Mask, box: Box) -> None:
    """As `write_changes`, by Slicer's merge of what is added and what is removed."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    matrix = nodes.ijk_to_ras(volume)
    for part, mode in ((after & ~before, logic.MODE_MERGE_MAX), (~(before & ~after), logic.MODE_MERGE_MIN)):
        modifier = nodes.oriented(part, box, matrix)
        logic.SetBinaryLabelmapToSegment(modifier, node, segment, mode, modifier.GetExtent())


def grid_mask(node: Any, segment: str, volume: Any) -> tuple[Mask, Box]:
    """All of a segment, inside of the volume and outside of it; nothing, if it is empty."""
    labelmap, value = labelmap_of(node, segment)
    return nodes.voxels_of(labelmap) == value, nodes.box_of(labelmap)


def test_labelmap_of_its_own_is_followed_too() -> None:
    """A segment that gets voxels of another one leaves the shared labelmap; views must hear of what comes after."""
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16))
    first, second = blocks()
    node, (a, b) = add_segmentation(scene, volume, [first, second], shared=True)
    write_changes(node, a, volume, first, first | second, whole(SHAPE))
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    seen: list[int] = []
    changed = slicer.vtkSegmentation.SourceRepresentationModified
    node.GetSegmentation().AddObserver(changed, lambda *_: seen.append(1))
    write_changes(node, a, volume, first | second, first, whole(SHAPE))
    assert seen and np.array_equal(mask_of(node, a, volume), first) and np.array_equal(mask_of(node, b, volume), second)


def test_transform_that_moves_one_of_both_is_followed() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16), OBLIQUE)
    first, _ = blocks()
    node, (a,) = add_segmentation(scene, volume, [first])
    shift = np.eye(4)
    shift[:3, 3] = (OBLIQUE[:3, :3] @ [2, 0, 0]).ravel()  # two voxels along i
    put_under(scene, shift, node)
    assert np.array_equal(mask_of(node, a, volume), np.roll(first, 2, 2))
    after = repaired(np.roll(first, 2, 2))
    write_changes(node, a, volume, np.roll(first, 2, 2), after, whole(SHAPE))
    assert np.array_equal(mask_of(node, a, volume), after)


def warp(scene: Any) -> Any:
    """A transform that is not linear: a thin-plate spline that shifts everything by some millimetres."""
    points, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in np.ndindex(2, 2, 2):
        place = (np.array(corner) * 2 - 1) * 40.0
        points.InsertNextPoint(place)
        moved.InsertNextPoint(place + [1.0, 0.5, -0.5] + 0.02 * place * corner[0])
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(moved)
    node = slicer.vtkMRMLTransformNode()
    scene.AddNode(node)
    node.SetAndObserveTransformToParent(spline)
    return node


def test_warped_parent_of_both_changes_nothing() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16), OBLIQUE)
    first, second = blocks()
    node, (a, b) = add_segmentation(scene, volume, [first, second])
    parent = warp(scene)
    for child in (volume, node):
        child.SetAndObserveTransformNodeID(parent.GetID())
    after = repaired(first)
    write_changes(node, a, volume, first, after, whole(SHAPE))
    assert np.array_equal(mask_of(node, a, volume), after) and np.array_equal(mask_of(node, b, volume), second)


@pytest.mark.parametrize("how", ["finer and turned", "warped"])
def test_segment_on_another_grid_keeps_what_the_repair_did_not_touch(how: str) -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros((20, 40, 50), np.int16), OBLIQUE)
    grid = OBLIQUE @ rotation(0, 0, 12) @ np.diag([0.5, 0.5, 0.5, 1.0]) if how == "finer and turned" else OBLIQUE
    fine = add_volume(scene, np.zeros((44, 80, 90), np.int16), grid)
    solid = np.zeros((44, 80, 90), bool)
    solid[4:16, 10:36, 12:44] = True
    other = np.zeros_like(solid)
    other[18:22, 10:36, 12:44] = True
    node, (a, b) = add_segmentation(scene, fine, [solid, other], shared=True)
    if how == "warped":
        node.SetAndObserveTransformNodeID(warp(scene).GetID())
    before = mask_of(node, a, volume)
    assert before.any()
    after = before.copy()
    inner = np.argwhere(before).mean(0).astype(int)
    after[inner[0], inner[1] - 1 : inner[1] + 2, inner[2] - 1 : inner[2] + 2] = False
    after[:3, :3, :3] = True  # far from everything
    raw = [fine_mask(node, s, fine) for s in (a, b)]
    write_changes(node, a, volume, before, after, whole(before.shape))
    now = mask_of(node, a, volume)
    union = np.count_nonzero(now | after)
    assert np.count_nonzero(now ^ after) / union < 0.02
    assert np.array_equal(fine_mask(node, b, fine), raw[1])
    node.SetAndObserveTransformNodeID(None)  # on its own grid: only near the change did anything move
    changed = np.argwhere(fine_mask(node, a, fine) ^ raw[0])
    assert 0 < len(changed) < 0.2 * raw[0].sum()


def fine_mask(node: Any, segment: str, volume: Any) -> Mask:
    """A segment on its own grid, with the transforms taken away for the look."""
    kept = node.GetTransformNodeID()
    node.SetAndObserveTransformNodeID(None)
    found = mask_of(node, segment, volume)
    node.SetAndObserveTransformNodeID(kept)
    return found


def test_part_of_a_segment_outside_of_the_volume_stays() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16))
    large = np.eye(4) @ PLAIN
    large[:3, 3] = PLAIN[:3, :3] @ [-5, -5, -5]  # begins five voxels before the volume
    around = add_volume(scene, np.zeros((20, 25, 30), np.int16), large)
    mask = np.zeros((20, 25, 30), bool)
    mask[2:9, 2:9, 2:9] = True
    node, (a,) = add_segmentation(scene, around, [mask])
    inside, box = read_segment(node, a, volume)
    assert box == ((0, 4), (0, 4), (0, 4)) and inside.all()
    after = inside.copy()
    after[1, 1, 1] = False
    write_changes(node, a, volume, inside, after, box)
    expected = mask.copy()
    expected[6, 6, 6] = False
    assert np.array_equal(mask_of(node, a, around), expected)


def test_closed_surface_stays_shown_and_follows() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16))
    first, _ = blocks()
    node, (a,) = add_segmentation(scene, volume, [first])
    node.CreateClosedSurfaceRepresentation()
    before = node.GetSegmentation().GetSegment(a).GetRepresentation(nodes.SURFACE).GetBounds()
    after = repaired(first)
    write_changes(node, a, volume, first, after, whole(SHAPE))
    assert node.GetSegmentation().ContainsRepresentation(nodes.SURFACE)
    assert node.GetSegmentation().GetSegment(a).GetRepresentation(nodes.SURFACE).GetBounds() != before


# --- what cannot be refined -----------------------------------------------------------------------------------------


def test_nothing_to_refine_is_said() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16))
    first, _ = blocks()
    node, (a, empty) = add_segmentation(scene, volume, [first, np.zeros(SHAPE, bool)])
    far = np.eye(4)
    far[:3, 3] = 1000
    with pytest.raises(RefineError, match="is empty"):
        read_segment(node, empty, volume)
    with pytest.raises(RefineError, match="choose one"):
        read_segment(node, "nobody", volume)
    with pytest.raises(RefineError, match="choose one"):
        read_segment(None, "nobody", volume)
    with pytest.raises(RefineError, match="no image"):
        nodes.image_of(None)
    put_under(scene, far, node)
    with pytest.raises(RefineError, match="no voxel inside"):
        read_segment(node, a, volume)
    node.GetSegmentation().SetSourceRepresentationName(nodes.SURFACE)
    with pytest.raises(RefineError, match="kept as a surface"):
        read_segment(node, a, volume)


# --- the editable area ----------------------------------------------------------------------------------------------


def slicers_own(settings_node: Any, scene: Any, node: Any, segment: str, change: Mask, volume: Any) -> Mask:
    """What Slicer's Segment Editor logic adds when everything of `change` is painted."""
    logic = slicer.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(scene)
    settings_node.SetAndObserveSegmentationNode(node)
    settings_node.SetAndObserveSourceVolumeNode(volume)
    settings_node.SetSelectedSegmentID(segment)
    logic.SetSegmentEditorNode(settings_node)
    logic.UpdateReferenceGeometryImage()
    logic.UpdateAlignedSourceVolume()
    modifier = nodes.oriented(change, whole(SHAPE), nodes.ijk_to_ras(volume))
    logic.ModifySegmentByLabelmap(node, segment, modifier, logic.ModificationModeAdd, False, False)
    return mask_of(node, segment, volume)


@given(st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40)
def test_editable_area_is_slicers_own(mode: int, intensity: bool, hide: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = new_scene()
    volume = add_volume(scene, rng.integers(0, 100, SHAPE).astype(np.int16), OBLIQUE)
    masks = [rng.random(SHAPE) < 0.3 for _ in range(3)]
    node, ids = add_segmentation(scene, volume, masks)
    if hide:
        node.GetDisplayNode().SetSegmentVisibility(ids[1], False)
    chosen = slicer.vtkMRMLSegmentEditorNode()
    scene.AddNode(chosen)
    chosen.SetMaskMode(mode)
    chosen.SetMaskSegmentID(ids[2])
    chosen.SetOverwriteMode(chosen.OverwriteNone)
    chosen.SetSourceVolumeIntensityMask(intensity)
    chosen.SetSourceVolumeIntensityMaskRange(20, 60)
    everything = np.ones(SHAPE, bool)
    area = editable_area(chosen, node, ids[0], volume, whole(SHAPE))
    expected = masks[0] | (everything if area is None else area)
    assert np.array_equal(slicers_own(chosen, scene, node, ids[0], everything, volume), expected)


def test_changes_outside_of_the_editable_area_are_counted_and_left_out() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16))
    first, second = blocks()
    node, (a, _) = add_segmentation(scene, volume, [first, second])
    chosen = slicer.vtkMRMLSegmentEditorNode()
    scene.AddNode(chosen)
    chosen.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    after = repaired(first)
    area = editable_area(chosen, node, a, volume, whole(SHAPE))
    assert write_changes(node, a, volume, first, after, whole(SHAPE), area) == np.count_nonzero(after & second)
    assert np.array_equal(mask_of(node, a, volume), after & ~second)


# --- regions --------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(GEOMETRIES)),
    st.tuples(*[st.integers(0, n - 1) for n in SHAPE]),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.booleans(),
)
@settings(max_examples=25)
def test_roi_along_the_grid_is_its_box(
    geometry: str, start: tuple[int, ...], extent: tuple[int, ...], moved: bool
) -> None:
    matrix = GEOMETRIES[geometry]
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16), matrix)
    box = tuple((a, min(a + n, size)) for a, n, size in zip(start, extent, SHAPE, strict=True))
    middle = matrix @ [*(sum(pair) / 2 - 0.5 for pair in box[::-1]), 1.0]
    steps = np.linalg.norm(matrix[:3, :3], axis=0)
    roi = slicer.vtkMRMLMarkupsROINode()
    scene.AddNode(roi)
    object_to_node = np.eye(4)
    object_to_node[:3, :3] = matrix[:3, :3] / steps
    object_to_node[:3, 3] = middle[:3]
    roi.SetSize([float(n * (b - a)) for n, (a, b) in zip(steps, box[::-1], strict=True)])
    roi.GetObjectToNodeMatrix().DeepCopy(nodes.matrix_of(object_to_node))
    if moved:
        put_under(scene, rotation(5, 6, 7), volume, roi)
    assert regions.of_roi(roi, volume) == box


def test_cursor_has_a_cube_around_it_and_must_be_in_the_volume() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros((20, 20, 20), np.int16))
    centre = PLAIN @ [10, 9, 8, 1]
    assert regions.around_point(tuple(centre[:3]), volume, 4.0) == ((6, 11), (7, 12), (8, 13))
    with pytest.raises(RefineError, match="outside of the source volume"):
        regions.around_point((500.0, 0.0, 0.0), volume, 4.0)
    with pytest.raises(RefineError, match="no region"):
        regions.of_roi(None, volume)


# --- label maps for the datastore -----------------------------------------------------------------------------------


def test_segments_keep_their_values_and_the_refined_one_is_on_top() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16))
    first, second = blocks()
    node, (a, b) = add_segmentation(scene, volume, [repaired(first), second])
    node.GetSegmentation().GetSegment(b).SetLabelValue(1)  # as when each came from a mask of its own
    values = values_of(node)
    assert len(set(values.values())) == 2 and min(values.values()) > 0
    for above, mask in ((a, repaired(first)), (b, second)):
        assert np.array_equal(label_map(node, volume, above) == values[above], mask)


def test_image_is_named_by_its_voxels_and_not_by_its_name() -> None:
    scene = new_scene()
    voxels = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
    one, two = (add_volume(scene, voxels, name=name) for name in ("Doe^Jane", "other"))
    names = [image_id(v, nodes.image_of(v), "http://a") for v in (one, two)]
    assert names[0] == names[1] and "Doe" not in names[0]
    mark(one, "http://a", "patient7")
    assert image_id(one, nodes.image_of(one), "http://a") == "patient7"
    assert image_id(one, nodes.image_of(one), "http://b") == names[1]


def test_key_of_an_image_changes_with_its_voxels() -> None:
    scene = new_scene()
    volume = add_volume(scene, np.zeros(SHAPE, np.int16))
    before = nodes.image_of(volume)
    assert nodes.image_of(volume).key == before.key
    before.voxels[slices(((0, 1), (0, 1), (0, 1)))] = 7
    volume.GetImageData().GetPointData().GetScalars().Modified()
    assert nodes.image_of(volume).key != before.key
