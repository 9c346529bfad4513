"""What wakes those that wait for locks without a thread of their own."""

from __future__ import annotations

from vhost9p.p9.lock_waits import FILES_MAX, Bell


def test_the_bell_names_the_files_whose_locks_were_released() -> None:
    bell = Bell()
    bell.ring((1, 2))
    bell.ring((1, 3))
    bell.ring()
    assert bell.wait(0) == {(1, 2), (1, 3)}
    assert bell.wait(0) == set()


def test_a_patrol_that_hangs_gets_so_many_files() -> None:
    """Then of any: it tries all that it has."""
    bell = Bell()
    for inode in range(FILES_MAX):
        bell.ring((1, inode))
    bell.ring((1, 0))
    bell.ring()
    found = bell.wait(0)
    assert found is not None and len(found) == FILES_MAX
    for inode in range(2 * FILES_MAX):
        bell.ring((1, inode))
    assert len(bell._files) == FILES_MAX
    assert bell.wait(0) is None
    assert bell.wait(0) == set()
