"""The widgets of each node in the order in which workflows were saved.

A workflow file holds a node's values as a list without names, and the page gives them back by their place: a widget
that is put between others, moved or taken away gives every value behind it to another widget. So this list is the
promise of CHANGELOG.md that saved workflows load. It is written by hand, and grows at the ends of its lists alone.
Never make it from the code, which would agree with every mistake. A new widget comes here when it is published.
"""

AFTER_A_RUN = "control_after_generate"
"""The page's own widget behind a seed: what becomes of the number after a run."""
SAVED_WIDGETS = {
    "NullInvApply": [],
    "NullInvAttentionMaps": ["words", "edit"],
    "NullInvDDIMInvert": ["steps", "scheduler", "method"],
    "NullInvDemoScene": ["seed", AFTER_A_RUN, "edit"],
    "NullInvEditPhoto": [
        "source_text", "edit_text", "strength", "blend_words", "size", "steps", "cfg", "keep_pixels", "kind",
        "exclude_words", "variant", AFTER_A_RUN, "full_size",
    ],
    "NullInvGuider": ["cfg"],
    "NullInvKeepPhoto": [],
    "NullInvLoad": ["file"],
    "NullInvLoadDiffusers": ["model"],
    "NullInvOptimize": ["cfg", "preset", "inner_steps", "learning_rate", "early_stop", "optimize_pooled"],
    "NullInvP2PEdit": [
        "source_text", "edit_text", "mode", "cross_replace", "self_replace", "blend_words", "exclude_words",
        "word_windows", "fresh_noise", "steady_words", "variant", AFTER_A_RUN, "focus_from", "exclude_end",
    ],
    "NullInvP2PSampler": ["cfg", "source_cfg", "end_step", "path", "skipped"],
    "NullInvSave": ["prompt", "filename_prefix"],
    "NullInvSaveBatchJob": ["filename_prefix"],
}  # fmt: skip
