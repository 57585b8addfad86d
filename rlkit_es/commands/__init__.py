"""The subcommands of ``rlkit-es``, a file each."""
