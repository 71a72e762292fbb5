"""What can be measured of a flash, and the unit in which thresholds name it.

`spare`: percent of the spare blocks that are left. `life_time_a`, `life_time_b`: percent of the rated life that is
used, in SLC mode and of all cells; with `_code`, as EXT_CSD codes it. `pre_eol`: 1 normal, 2 warning, 3 urgent.
`corrected_bits`: the most of the error correction's strength that a read has needed lately, in percent.
"""

UNITS = {
    "temperature": "degC",
    "voltage": "V",
    "spare": "%",
    "life_time_a": "%",
    "life_time_b": "%",
    "life_time_a_code": "",
    "life_time_b_code": "",
    "pre_eol": "",
    "corrected_bits": "%",
}
