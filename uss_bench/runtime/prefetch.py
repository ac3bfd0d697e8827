"""Work done ahead by a thread."""

from concurrent.futures import ThreadPoolExecutor


def ahead(items):
    """The items of a generator, of which a thread makes the next one while the one before is worked on."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = thread.submit(next, items, end)
            yield item
