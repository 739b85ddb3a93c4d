"""What gunicorn serves: `twinlens.api.wsgi:app`."""

from __future__ import annotations

from twinlens.api.app import create_app
from twinlens.api.services import build_services
from twinlens.shared.log import configure_logging
from twinlens.shared.settings import Settings

_settings = Settings()
configure_logging(_settings.log_level)
app = create_app(_settings, build_services(_settings))
