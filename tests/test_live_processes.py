"""Queries of a process before and after it has exited."""

import subprocess
import sys

import live_processes
import psutil


def test_queries_of_a_process_that_has_exited_return_defaults():
    code = "print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        # Before its first output, the command line may be the parent's.
        assert child.stdout.readline() == b"ready\n"
        process = psutil.Process(child.pid)
        assert live_processes.process_name(process)
        assert live_processes.process_command(process)[1:] == ["-c", code]
        assert live_processes.working_folder(process.pid).is_dir()
        assert live_processes.process_status(process) not in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE)
        assert live_processes.kill(process)
    assert live_processes.list_descendants(child) == []
    assert live_processes.process_name(process) == ""
    assert live_processes.process_command(process) == [""]
    assert not live_processes.working_folder(process.pid).exists()
    assert live_processes.process_status(process) == psutil.STATUS_DEAD
    assert live_processes.listening_addresses(process) == set()
    assert not live_processes.kill(process)
    live_processes.terminate([process])
    live_processes.kill_all([process])
    assert live_processes.have_exited([process])
    assert live_processes.describe_processes([process]) == []
