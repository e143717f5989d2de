"""One thread in every library that has threads of its own."""

from threadpoolctl import threadpool_info, threadpool_limits

from choral.tasks.threads import one_thread


def counts(torch):
    return [pool["num_threads"] for pool in threadpool_info()] + [torch.get_num_threads()]


def test_inside_there_is_one_thread_and_outside_as_many_as_before():
    import torch

    with threadpool_limits(limits=2):
        torch.set_num_threads(2)
        before = counts(torch)
        with one_thread():
            assert set(counts(torch)) == {1}
        assert counts(torch) == before
        torch.set_num_threads(1)
