"""What the machine has, and what a container leaves of it."""

import os

import pytest

from fromnoise.machine import LIMITS, memory

WHOLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(("said", "found"), [("1073741824\n", 2**30), ("max\n", WHOLE), (str(2**63 - 4096), WHOLE),
                                             ("", WHOLE), ("ü", WHOLE)])
def test_a_container_has_what_it_is_given(tmp_path, name, said, found):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(said, encoding="utf-8")
    assert memory(tmp_path) == found


def test_without_a_container_it_is_all_there_is(tmp_path):
    assert memory(tmp_path) == WHOLE
