"""What is for users' tests runs on asyncio and on trio, as the core does."""

from tests.core.conftest import _core_leak_check, anyio_backend, no_task_left_on_asyncio

__all__ = ["_core_leak_check", "anyio_backend", "no_task_left_on_asyncio"]
