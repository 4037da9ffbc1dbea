"""Names and units of coordinate systems, as LAS files describe them."""

import struct

import pytest

from kpdeform.cli.prepare import main
from kpdeform.data.coordinate_systems import _from_wkt, coordinate_system, unlike_unit
from tests.toy import write_toy_laz

LAMBERT = (
    'PROJCS["RGF93 v1 / Lambert-93",GEOGCS["RGF93 v1",DATUM["D",SPHEROID["GRS 1980",6378137,298]],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Lambert_Conformal_Conic_2SP"],'
    'UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST]]'
)
COMPOUND = (
    'COMPD_CS["NAD83 / Texas (ftUS) + NAVD88",PROJCS["NAD83 / Texas",GEOGCS["NAD83",'
    'UNIT["degree",0.0174]],PROJECTION["Lambert"],UNIT["US survey foot",0.304800609601219]],'
    'VERT_CS["NAVD88",VERT_DATUM["N",2005],UNIT["metre",1]]]'
)
WKT2 = (
    'PROJCRS["A",BASEGEOGCRS["B",DATUM["D",ELLIPSOID["E",6378137,298,LENGTHUNIT["metre",1]]]],'
    'CONVERSION["C",METHOD["M"],PARAMETER["False easting",0,LENGTHUNIT["metre",1]]],'
    'CS[Cartesian,2],AXIS["(E)",east,ORDER[1],LENGTHUNIT["foot",0.3048]]]'
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LAMBERT, ("RGF93 v1 / Lambert-93", "metre", 1.0, None)),
        (
            COMPOUND,
            ("NAD83 / Texas (ftUS) + NAVD88", "US survey foot", 0.304800609601219, 1.0),
        ),
        (WKT2, ("A", "foot", 0.3048, None)),
        ('GEOGCS["WGS 84",UNIT["degree",0.0174]]', ("WGS 84", "degree", None, None)),
        ('PROJCS["no unit"]', ("no unit", "", None, None)),
        ("[[[ nonsense", None),
    ],
)
def test_well_known_text(text, expected):
    assert _from_wkt(text) == expected


def with_record(path, record_id, content):
    """Adds a variable length record to a LAS file."""
    import laspy

    las = laspy.read(path)
    las.header.vlrs.append(laspy.VLR("LASF_Projection", record_id, "", content))
    las.write(path)
    return path


def test_a_file_with_text(tmp_path):
    path = with_record(write_toy_laz(tmp_path / "a.laz"), 2112, COMPOUND.encode() + b"\0")
    assert coordinate_system(path).unit == "US survey foot"


@pytest.mark.parametrize(("code", "unit"), [(9001, "metre"), (9002, "foot"), (None, "")])
def test_a_file_with_geotiff_keys(tmp_path, code, unit):
    keys = [(1024, 0, 1, 1), (3072, 0, 1, 2277)] + ([(3076, 0, 1, code)] if code else [])
    content = struct.pack(f"<{4 + 4 * len(keys)}H", 1, 1, 0, len(keys), *sum(keys, ()))
    path = with_record(write_toy_laz(tmp_path / "a.laz"), 34735, content)
    system = coordinate_system(path)
    assert (system.name, system.unit) == ("EPSG:2277", unit)


@pytest.mark.parametrize(
    ("unit", "scale", "differs"),
    [("metre", 1.0, True), ("metre", 0.3048, False), ("foot", 1.0, False)],
)
def test_another_unit_is_found(tmp_path, unit, scale, differs):
    path = with_record(write_toy_laz(tmp_path / "a.laz"), 2112, COMPOUND.encode())
    text = unlike_unit(path, unit, scale)
    assert (text is not None) == differs
    if differs:
        assert "is the US survey foot" in text and "--scale 0.304801" in text
    degrees = with_record(
        write_toy_laz(tmp_path / "b.laz"), 2112, b'GEOGCS["WGS 84",UNIT["degree",0.0174]]'
    )
    assert ("degrees" in (unlike_unit(degrees, unit, scale) or "")) == (unit == "metre")
    assert unlike_unit(write_toy_laz(tmp_path / "c.laz"), unit, scale) is None


@pytest.mark.parametrize("options", [[], ["--scale", "0.3048"]])
def test_prepare_warns_of_feet(tmp_path, monkeypatch, capsys, options):
    (tmp_path / "raw" / "train").mkdir(parents=True)
    with_record(write_toy_laz(tmp_path / "raw" / "train" / "a.laz", 2), 2112, COMPOUND.encode())
    given = ["--class", "a=0", "--class", "b=1", "--output", str(tmp_path / "out"), *options]
    monkeypatch.setattr("sys.argv", ["prepare", "folder", str(tmp_path / "raw"), *given])
    main()
    assert ("the unit of its coordinate system" in capsys.readouterr().err) == (not options)


def test_files_without_a_system(tmp_path):
    assert coordinate_system(write_toy_laz(tmp_path / "a.laz")) is None
    assert coordinate_system(tmp_path / "a.ply") is None


def test_the_ign_tiles_are_in_lambert_93(shared):
    path = next((shared / "data" / "ign_lidarhd" / "tile50m").glob("*.laz"))
    assert coordinate_system(path)[:3] == ("RGF93 v1 / Lambert-93", "metre", 1.0)
