"""A process that spends from a key's budget with many threads.

    python -m tests.support.spend URL FOLDER KEY BUDGET THREADS CHATS FACTOR

It waits for a line on standard input, so that several processes begin at once. Each chat reserves
`FACTOR` times its cost. It prints one line: chats admitted and refused.
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

from goblin_assistant.errors import BudgetExceeded
from goblin_assistant.usage.batches import BATCH_SECONDS
from goblin_assistant.usage.records import new_record_id
from tests.support.books import entry, open_database, open_store, principal


def main() -> None:
    """Spend."""
    url, folder, key_text, budget_text, threads_text, chats_text, factor_text = sys.argv[1:]
    key, budget, factor = int(key_text), int(budget_text), int(factor_text)
    engine = open_database(url)
    admitted, refused = [], []
    with open_store(engine, Path(folder), batch_seconds=BATCH_SECONDS) as store:

        def spend() -> None:
            for _ in range(int(chats_text)):
                tokens = random.choice((10, 50, 100))
                record = new_record_id()
                try:
                    held = store.reserve(
                        record, principal(key, budget), [("echo", "echo")], 0, tokens * factor
                    )
                except BudgetExceeded:
                    refused.append(record)
                    continue
                made = entry(
                    id=record,
                    key_id=key,
                    prompt_tokens=0,
                    completion_tokens=tokens,
                    cost_microusd=tokens * 100,
                )
                store.journal(made)
                store.finish(made, held)
                admitted.append(record)

        workers = [threading.Thread(target=spend) for _ in range(int(threads_text))]
        print("ready", flush=True)
        sys.stdin.readline()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    engine.dispose()
    print(len(admitted), len(refused), flush=True)


if __name__ == "__main__":
    main()
