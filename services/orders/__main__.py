from runtime.service import run
from services.orders.handlers import ORDERS_SERVICE

run(ORDERS_SERVICE)
