# A kernel that says on the serial line what its loader has handed to it, and is idle from then on. BIOS
# loaders and GRUB enter it as Linux (Documentation/arch/x86/boot.rst), EFI as a program of its own.
#
# It says: STX, its command line, US, the bytes of its initrds that aren't zero, ETX.
    .intel_syntax noprefix
    .text
start:
    .ascii "MZ"
    .org 0x3c
    .long pe - start
pe: .ascii "PE\0\0"
    .short 0x8664, 1                            # x86-64, with one section
    .long 0, 0, 0
    .short optional_end - optional, 0x206
optional:
    .short 0x20b, 0
    .long end - code, 0, 0, efi - start, code - start
    .quad 0
    .long 0x20, 0x20                            # alignments
    .short 0, 0, 0, 0, 0, 0
    .long 0, end - start, code - start, 0
    .short 10, 0                                # an EFI application
    .quad 0, 0, 0, 0
    .long 0, 6
    .quad 0, 0, 0, 0, 0, 0                      # no directories: it runs wherever it lies
optional_end:
    .ascii ".text\0\0\0"
    .long end - code, code - start, end - code, code - start, 0, 0, 0, 0x60000020

    .org 0x1f1
    .byte 1                                     # setup_sects
    .org 0x1fe
    .short 0xaa55                               # boot_flag
    .code16
    jmp setup
    .org 0x202
    .ascii "HdrS"
    .short 0x20c                                # version
    .org 0x211
    .byte 1                                     # loadflags: LOADED_HIGH
    .org 0x214
    .long 0x100000                              # code32_start
cmd_line_ptr = 0x228
ramdisk_image = 0x218
ramdisk_size = 0x21c
    .org 0x22c
    .long 0x7fffffff, 0x200000                  # initrd_addr_max, kernel_alignment
    .byte 1, 21                                 # relocatable_kernel, min_alignment
    .short 1                                    # xloadflags
    .long 0x7ff                                 # cmdline_size
    .org 0x258
    .quad 0x1000000                             # pref_address
    .long 0x10000, 0                            # init_size, handover_offset

# In real mode: to protected mode, with esi as a loader has it that is there already.
setup:
    cli
    xor eax, eax
    mov ax, ds
    shl eax, 4
    mov esi, eax
    add eax, offset segments - start
    mov [segments_pointer - start + 2], eax
    lgdtd [segments_pointer - start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                            # jmp 0x10:0x100000
    .long 0x100000
    .short 0x10
    .balign 8
segments:
    .quad 0, 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
segments_pointer:
    .short segments_pointer - segments - 1
    .long 0

    .org 0x400
    .code32
code:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebp, esi
    lea esp, [esi + 0x1e8]                      # of `scratch`
    mov al, 2
    call put
    mov esi, [ebp + cmd_line_ptr]
0:  lodsb
    test al, al
    jz 1f
    call put
    jmp 0b
1:  mov al, 0x1f
    call put
    mov esi, [ebp + ramdisk_image]
    mov ecx, [ebp + ramdisk_size]
0:  jecxz said
    lodsb
    test al, al
    jz 1f
    call put
1:  dec ecx
    jmp 0b

# From here on the bytes mean the same in 32 and in 64 bits.
said:
    mov al, 3
    call put
idle:
    cli
    hlt
    jmp idle
put:
    mov ah, al
    mov dx, 0x3fd
0:  in al, dx
    test al, 0x20
    jz 0b
    mov dx, 0x3f8
    mov al, ah
    out dx, al
    ret

# EFI_LOADED_IMAGE_PROTOCOL has what it is told, in UTF-16.
    .code64
efi:
    sub rsp, 56
    mov rax, [rdx + 96]                         # EFI_SYSTEM_TABLE.BootServices
    lea rdx, [rip + loaded_image]
    lea r8, [rsp + 40]
    call [rax + 152]                            # HandleProtocol
    mov rbx, [rsp + 40]
    mov al, 2
    call put
    mov rsi, [rbx + 56]                         # LoadOptions
    mov ecx, [rbx + 48]                         # LoadOptionsSize
0:  jecxz 2f
    lodsb
    test al, al
    jz 1f
    call put
1:  dec ecx
    jmp 0b
2:  mov al, 0x1f
    call put
    jmp said
    .balign 8
loaded_image:
    .long 0x5b1b31a1
    .short 0x9562, 0x11d2
    .byte 0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b
    .balign 32
end:
