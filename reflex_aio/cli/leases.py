"""Who runs which consumer, where there is a table that tells."""

from collections.abc import Mapping

from reflex_aio.cli.database import Database
from reflex_aio.cli.options import LeasesOptions
from reflex_aio.errors import SchemaError
from reflex_aio.lease import LeaseState

__all__ = ["leases_in"]


async def leases_in(on: Database, options: LeasesOptions) -> Mapping[str, LeaseState]:
    """Return the leases by consumer; none where no table was named and there is none of the usual name.

    :raises SchemaError: if a table was named, and isn't one of leases
    """
    try:
        return await options.table().store(on.pool).all()
    except SchemaError:
        if options.leases is None:
            # What is called so may be anything.
            return {}
        raise
