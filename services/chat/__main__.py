from runtime.service import run
from services.chat.handlers import CHAT_SERVICE

run(CHAT_SERVICE)
