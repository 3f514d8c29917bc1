"""Why a forecast is what it is: contributions, what-ifs, similar periods, days that went otherwise."""
