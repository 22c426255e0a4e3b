"""Questions to a process that has ended between two looks, as any of those that other tests look at may."""

import subprocess
import sys

import living
import psutil


def test_who_has_ended_answers_like_the_dead() -> None:
    code = "print('there', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        # Until it has begun, it has no command of its own.
        assert process.stdout.readline() == b"there\n"
        seen = psutil.Process(process.pid)
        assert living.name(seen)
        assert living.command(seen)[1:] == ["-c", code]
        assert living.folder(seen.pid).is_dir()
        assert living.status(seen) not in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE)
        assert living.kill(seen)
    assert living.family(process) == []
    assert living.name(seen) == ""
    assert living.command(seen) == [""]
    assert not living.folder(seen.pid).exists()
    assert living.status(seen) == psutil.STATUS_DEAD
    assert living.listening(seen) == set()
    assert not living.kill(seen)
    living.terminate([seen])
    living.kill_all([seen])
    assert living.all_gone([seen])
    assert living.details([seen]) == []
