"""What a retailer runs: training, backtest, forecasts, report. Sales data never leave this package."""
