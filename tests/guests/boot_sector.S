# The first sector of a disk, as a BIOS starts it: counts in the second sector how often the disk was booted, reads the 127
# sectors from there on at once, and says all three on the first serial port: "TEXT COUNT SUM" with the text that is in the
# second sector, the count as one digit, and the sum of the 16-bit words read, in four hexadecimal digits.
# All access to the disk is by the BIOS, in real mode: int 13h, functions 42h and 43h.
        .code16
        .globl  _start
        .set    WINDOW, 0x1000          # segment of what is read
        .set    SECTORS, 127            # the most that one call may ask for
        .set    SERIAL, 0x3f8
        .set    LINE_STATUS, 0x3fd

_start: ljmp    $0, $begin
begin:  xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movw    $WINDOW, %ax
        movw    %ax, %es
        cld

        movb    $0x42, %ah              # read the second sector
        call    disk
        incb    %es:0                   # its first byte is the count
        movw    $0x4300, %ax            # write it back
        call    disk
        movw    $SECTORS, blocks
        movb    $0x42, %ah
        call    disk

        movw    $1, %si                 # the text
1:      movb    %es:(%si), %al
        testb   %al, %al
        jz      2f
        call    say
        incw    %si
        jmp     1b
2:      movb    $' ', %al
        call    say
        movb    %es:0, %al
        addb    $'0', %al
        call    say
        movb    $' ', %al
        call    say

        xorw    %bx, %bx                # the sum
        xorw    %si, %si
        movw    $(SECTORS * 256), %cx
3:      addw    %es:(%si), %bx
        addw    $2, %si
        loop    3b
        movw    $4, %cx
4:      rolw    $4, %bx
        movb    %bl, %al
        andb    $15, %al
        cmpb    $10, %al
        jb      5f
        addb    $('a' - '0' - 10), %al
5:      addb    $'0', %al
        call    say
        loop    4b
        movb    $'\n', %al
        call    say
stop:   hlt
        jmp     stop

disk:   movw    $packet, %si            # the drive is still in %dl
        int     $0x13
        jc      failed
        ret
failed: movb    $'!', %al               # and the status of the BIOS is lost: nobody reads it here
        call    say
        jmp     stop

say:    pushw   %dx                     # the character in %al
        movb    %al, %ah
        movw    $LINE_STATUS, %dx
6:      inb     %dx, %al
        testb   $0x20, %al
        jz      6b
        movb    %ah, %al
        movw    $SERIAL, %dx
        outb    %al, %dx
        popw    %dx
        ret

packet: .byte   16, 0
blocks: .word   1
        .word   0, WINDOW               # offset, segment
        .quad   1                       # first sector

        .org    510
        .word   0xaa55
