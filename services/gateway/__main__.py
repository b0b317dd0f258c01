from runtime.service import run
from services.gateway.app import GATEWAY

run(GATEWAY)
