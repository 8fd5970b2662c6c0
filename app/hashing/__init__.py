"""Medium → signals: decoded and hashed in locked child processes."""
