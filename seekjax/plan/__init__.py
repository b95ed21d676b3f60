"""What a run takes, worked out on paper: from the config and a table of chips, without an array.

    chips      what each kind of device computes, holds, sends and costs, with the sources
    counts     FLOPs per token by part of the model
    weights    every weight with its logical axes
    layout     how many devices split what
    memory     bytes on each device by kind
    traffic    bytes that each collective sends, over which link
    step       the time of a step, from a roofline of compute, memory and links
    meshes     every mesh that divides the run, the fastest first
    cost       hours, dollars and days
    inference  memory and time per token of generating
    tables     what `seekjax plan` prints

All of it is arithmetic on sizes: nothing here runs or compiles a program.
"""
