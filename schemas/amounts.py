"""Numbers and times for people."""


def rounded(value: float) -> str:
    """A number with three digits that count."""
    for unit, name in ((1e9, " G"), (1e6, " M")):
        if value >= 0.9995 * unit:  # which three digits make a whole unit
            return f"{value / unit:.3g}{name}"
    if value < 100:
        return f"{value:.3g}"
    digits = max(0, len(str(int(value))) - 3)
    return f"{round(value, -digits):,.0f}"


def duration(seconds: float) -> str:
    """A time: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
