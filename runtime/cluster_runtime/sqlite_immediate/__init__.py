"""Django's sqlite backend for a Django before 5.1, which knows neither `transaction_mode` nor `init_command`."""
