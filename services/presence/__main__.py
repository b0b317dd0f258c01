from runtime.service import run
from services.presence.handlers import PRESENCE_SERVICE

run(PRESENCE_SERVICE)
